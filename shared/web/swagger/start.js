// A service lists its own document, the gateway those of all services.
async function start() {
  const urls = await (await fetch("/docs/documents.json")).json();
  SwaggerUIBundle({
    dom_id: "#swagger-ui",
    urls,
    deepLinking: true,
    persistAuthorization: true, // or the token would be gone when another service is chosen
    validatorUrl: null, // or the document would be sent to a server of strangers
    presets: [SwaggerUIBundle.presets.apis, SwaggerUIStandalonePreset],
    layout: "StandaloneLayout",
  });
}

start();
