"""The services: for each a file with its Deployments, its Service, and how many pods may stop at the same time."""

from documents.kubernetes.parts import PART_OF, SERVICES, Manifest, Process, metadata, processes

IMAGE, USER = "quickbite", 10001
PRE_STOP_SECONDS = 5
"""How long a pod of an API goes on as usual, because others do not know yet that it ends, and send it requests."""
GRACE_SECONDS = 20
"""`PRE_STOP_SECONDS`, the drain of the process, and a reserve. After that the pod is killed."""
REQUESTS = {
    "api": {"cpu": "100m", "memory": "128Mi"},
    "relay": {"cpu": "50m", "memory": "128Mi"},
    "consumer": {"cpu": "50m", "memory": "128Mi"},
}
"""Measured, see docs/kubernetes.md."""
LIMITS = {"memory": "256Mi"}
"""No limit of CPU: a pod that is stopped for the rest of 100 ms answers late although the node has idle cores."""
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}
POD_SECURITY = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "runAsGroup": USER,
    "fsGroup": USER,
    "seccompProfile": {"type": "RuntimeDefault"},
}
_SECRETS, _AUTHORITIES = "/run/secrets/quickbite", "/run/ca"
# payments simulates the provider, with a schema and a role of its own.
_FURTHER_SCHEMAS = {"payments": ["provider"]}


def manifests() -> dict[str, list[Manifest]]:
    """The manifests of each service, by its name."""
    return {name: [_service(name, port), *_deployments(name), *_budgets(name)] for name, port in SERVICES.items()}


def _service(name: str, port: int) -> Manifest:
    """Others reach only the API. The relay and the consumer have a port for probes and metrics, but no name."""
    api = processes(name)[0]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(name, {"app.kubernetes.io/name": name}),
        "spec": {"selector": api.labels, "ports": [{"name": "http", "port": port, "targetPort": "http"}]},
    }


def _deployments(service: str) -> list[Manifest]:
    return [
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": metadata(process.name, process.labels),
            "spec": {
                "revisionHistoryLimit": 3,
                "progressDeadlineSeconds": 600,
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
                "selector": {"matchLabels": process.labels},
                "template": {"metadata": {"labels": {**process.labels, **PART_OF}}, "spec": _pod(process)},
            },
        }
        for process in processes(service)
    ]


def _budgets(service: str) -> list[Manifest]:
    return [
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": metadata(process.name, process.labels),
            "spec": {"maxUnavailable": 1, "selector": {"matchLabels": process.labels}},
        }
        for process in processes(service)
    ]


def _pod(process: Process) -> Manifest:
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,  # their variables, such as ORDERS_PORT, would look like settings
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": POD_SECURITY,
        "topologySpreadConstraints": [_spread("topology.kubernetes.io/zone"), _spread("kubernetes.io/hostname")],
        "initContainers": [_wait_for_schema(process)],
        "containers": [_container(process)],
        "volumes": [_secrets(process), _authorities(process)],
    }


def _spread(key: str) -> Manifest:
    """Pods of one Deployment and one release, so that a new release does not count the old pods."""
    return {
        "maxSkew": 1,
        "topologyKey": key,
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": PART_OF},
        "matchLabelKeys": ["app.kubernetes.io/name", "app.kubernetes.io/component", "pod-template-hash"],
    }


def _wait_for_schema(process: Process) -> Manifest:
    schemas = [process.service, *_FURTHER_SCHEMAS.get(process.service, [])]
    return {
        "name": "schema",
        "image": IMAGE,
        "command": ["python", "-m", "migrations", "wait", *schemas],
        "env": _database(process),
        "resources": {"requests": REQUESTS[process.component], "limits": LIMITS},
        "securityContext": RESTRICTED,
        "volumeMounts": _mounts(),
    }


def _container(process: Process) -> Manifest:
    own = {
        "name": "service",
        "image": IMAGE,
        "command": ["python", "-m", process.service, "--only", ",".join(process.only)],
        "envFrom": [{"configMapRef": {"name": "settings"}}],
        "env": [
            _variable("PORT", str(process.port)),
            _variable("POOL_SIZE", str(process.pool_size)),
            *_database(process),
            *_tokens(process),
            *_kafka(process),
            *_provider(process),
        ],
        "ports": [{"name": "http", "containerPort": process.port}],
        "startupProbe": _probe("/livez", period=1, failures=60),
        "livenessProbe": _probe("/livez", period=10, failures=3),
        "readinessProbe": _probe("/readyz", period=3, failures=2),
        "resources": {"requests": REQUESTS[process.component], "limits": LIMITS},
        "securityContext": RESTRICTED,
        "volumeMounts": _mounts(),
    }
    if process.is_api:
        own["lifecycle"] = {"preStop": {"sleep": {"seconds": PRE_STOP_SECONDS}}}
    return own


def _probe(path: str, *, period: int, failures: int) -> Manifest:
    return {
        "httpGet": {"path": path, "port": "http"},
        "periodSeconds": period,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def _variable(name: str, value: str) -> Manifest:
    return {"name": name, "value": value}


def _database(process: Process) -> list[Manifest]:
    return [
        _variable("DATABASE_URL", database_url(f"{process.service}_user")),
        _variable("SECRETS_FOLDER", _SECRETS),
    ]


def database_url(role: str) -> str:
    """The address of the primary. `verify-full` also compares the name in its certificate."""
    return f"postgresql://{role}@postgres-rw:5432/quickbite?sslmode=verify-full&sslrootcert={_AUTHORITIES}/postgres.pem"


def _tokens(process: Process) -> list[Manifest]:
    """Only an API verifies tokens."""
    found = f"http://auth:{SERVICES['auth']}/auth/jwks.json"
    return [_variable("AUTH_JWKS_URL", found)] if process.is_api else []


def _kafka(process: Process) -> list[Manifest]:
    """An API does not use Kafka, so it has no password there."""
    return [] if process.is_api else [_variable("KAFKA_USERNAME", process.service), *KAFKA]


KAFKA = [
    _variable("KAFKA_BOOTSTRAP_SERVERS", "kafka-kafka-bootstrap:9093"),
    _variable("KAFKA_SECURITY_PROTOCOL", "SASL_SSL"),
    _variable("KAFKA_SASL_MECHANISM", "SCRAM-SHA-512"),
    _variable("KAFKA_CA_FILE", f"{_AUTHORITIES}/kafka.pem"),
]


def _provider(process: Process) -> list[Manifest]:
    return [_variable("PROVIDER_DATABASE_URL", database_url("provider_user"))] if _calls_provider(process) else []


def _calls_provider(process: Process) -> bool:
    return process.service == "payments" and "worker" in process.only


def _mounts() -> list[Manifest]:
    return [
        {"name": "secrets", "mountPath": _SECRETS, "readOnly": True},
        {"name": "ca", "mountPath": _AUTHORITIES, "readOnly": True},
    ]


def _secrets(process: Process) -> Manifest:
    """Files whose names are those of settings. A password is read again at each new connection."""
    found = [_file(f"database-{process.service}", "password", "database_password")]
    if not process.is_api:
        found.append(_file(f"kafka-{process.service}", "password", "kafka_password"))
    if _calls_provider(process):
        found.append(_file("database-provider", "password", "provider_database_password"))
    if process.service == "auth":  # every part of auth wants this setting
        found.append(_file("admin", "password", "admin_password"))
    return {"name": "secrets", "projected": {"defaultMode": 0o440, "sources": found}}


def _authorities(process: Process) -> Manifest:
    found = [_file("postgres-ca", "ca.crt", "postgres.pem")]
    if not process.is_api:
        found.append(_file("kafka-cluster-ca-cert", "ca.crt", "kafka.pem"))
    return {"name": "ca", "projected": {"defaultMode": 0o444, "sources": found}}


def _file(secret: str, key: str, path: str) -> Manifest:
    return {"secret": {"name": secret, "items": [{"key": key, "path": path}]}}
