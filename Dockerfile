# One image for all processes of QuickBite. The command selects one: `python -m orders`, `python -m migrations up`.
# Two builds of one commit have the same files: make same-image.
# deploy/images.env has the digest of the base after `make images`.
ARG PYTHON_IMAGE=python:3.13-slim

FROM ${PYTHON_IMAGE} AS builder

# The virtual environment has no pip: nothing is installed after this step. What Python compiles must not depend on the
# clock or on chance, so it compares the hash of a source instead of its time.
RUN python -m venv --without-pip /venv
COPY requirements/run.txt /
RUN --mount=type=cache,target=/root/.cache/pip \
    pip --python /venv/bin/python install --disable-pip-version-check --no-compile \
        --only-binary :all: --require-hashes -r /run.txt \
    && PYTHONHASHSEED=0 python -m compileall -q -j 1 --invalidation-mode checked-hash /venv/lib

WORKDIR /app
COPY alembic.ini ./
COPY shared shared
COPY contracts contracts
COPY migrations migrations
COPY orders orders
COPY inventory inventory
COPY payments payments
COPY auth auth
COPY users users
COPY products products
COPY console console
COPY quickbite quickbite
COPY storefront storefront
COPY deploy deploy
# What the gateway serves in Kubernetes: an nginx beside this image copies these files.
COPY gateway gateway
COPY docs/asyncapi.json docs/
COPY docs/events docs/events
RUN PYTHONHASHSEED=0 python -m compileall -q -j 1 --invalidation-mode checked-hash .


FROM ${PYTHON_IMAGE}

# The dates of the new user and of the list of packages. The build gives that of the commit.
ARG SOURCE_DATE_EPOCH=0
# A new volume at one of these folders gets its owner. Nothing can be installed later: pip and apt are removed. The
# database of Debian's packages stays, for scanners, and contents.txt is the list for people.
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin quickbite \
    && rm -f /etc/passwd- /etc/group- /etc/shadow- /etc/gshadow- /etc/subuid- /etc/subgid- \
    && install -d -o 10001 -g 10001 /data /secrets \
    && dpkg-query --show --showformat '${Package} ${Version} (Debian)\n' > /contents.txt \
    && rm -rf /usr/local/bin/pip* /usr/local/lib/python3*/site-packages/pip* /usr/local/lib/python3*/ensurepip \
        /usr/bin/apt* /usr/bin/dpkg* /usr/lib/apt /var/cache/apt /var/cache/debconf /var/cache/ldconfig /var/log/*
WORKDIR /app
COPY --from=builder /venv /venv
COPY --from=builder /app /app
RUN python -c "import importlib.metadata as m, sys; print(*sorted(f'{d.name} {d.version} (Python)' \
    for d in m.distributions(path=sys.argv[1:])), sep='\n')" /venv/lib/python3*/site-packages >> /contents.txt

# Given by the build: make image. They come last, so that another commit does not build all layers again.
ARG VERSION= REVISION= SOURCE=
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 RELEASE=${VERSION}
LABEL org.opencontainers.image.title="QuickBite" \
      org.opencontainers.image.description="The services of a shop, which talk through a Postgres outbox and Kafka" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}"

# A number, so that Kubernetes can check that the user is not root.
USER 10001:10001
