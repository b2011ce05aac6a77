# One image for all processes of QuickBite. The command selects one: `python -m orders`, `python -m migrations up`.
FROM python:3.13-slim AS builder

# The virtual environment has no pip: nothing is installed after this step.
RUN python -m venv --without-pip /venv
COPY requirements/run.txt /
RUN --mount=type=cache,target=/root/.cache/pip \
    pip --python /venv/bin/python install --disable-pip-version-check --only-binary :all: --require-hashes -r /run.txt


FROM python:3.13-slim

# A new volume at one of these folders gets its owner.
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin quickbite \
    && install -d -o 10001 -g 10001 /data /secrets
WORKDIR /app
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

COPY --from=builder /venv /venv
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

# A number, so that Kubernetes can check that the user is not root.
USER 10001:10001
