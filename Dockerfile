# One image for every process of QuickBite; the command says which: `python -m orders`, `python -m migrations up`.
FROM python:3.13-slim AS builder

# The environment gets no pip of its own: nothing is installed after this.
RUN python -m venv --without-pip /venv
COPY requirements/run.txt /
RUN --mount=type=cache,target=/root/.cache/pip \
    pip --python /venv/bin/python install --disable-pip-version-check --only-binary :all: --require-hashes -r /run.txt


FROM python:3.13-slim

RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin quickbite
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

# By number, so that Kubernetes can see that it is not root.
USER 10001:10001
