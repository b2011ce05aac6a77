# STACK=local runs the stack from pip (see local/), STACK=compose in Docker. Default: the embedded stack if it is
# running, else Docker if an engine answers.
PYTHON ?= python3
BOOTSTRAP := $(PYTHON) -m local.bootstrap
STACK ?= $(shell STACK_NAME='$(STACK_NAME)' $(BOOTSTRAP) stack $@)
RUN := .venv/bin/python -m
LOCAL := $(BOOTSTRAP) local && $(RUN) local
DEV := @$(BOOTSTRAP) dev

# With PORT_BASE, every port gets its variable. Docker Compose needs them, and so do the addresses printed below.
ifneq ($(PORT_BASE),)
$(foreach port,$(or $(shell PORT_BASE='$(PORT_BASE)' $(BOOTSTRAP) ports),$(error wrong settings)),$(eval export $(port)))
endif

ON_STACK = $(or $($@-$(STACK)),$(error STACK is local or compose))

.DEFAULT_GOAL := help
.PHONY: help up restart stop start down reset ps logs demo rotate-keys events psql parked timeline test test-unit test-fast test-long lint actionlint check smoke bench bench-history version release-notes image image-push image-outputs deploy rollback docs site screenshots lock format

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

up: ## Start the whole stack and wait until it is ready
	@$(ON_STACK)

restart: ## Start the services again with the code of this folder; only one with NAME=payments
	@$(ON_STACK)

stop: ## Stop one program until it is started again: NAME=payments
	@$(ON_STACK)

start: ## Start a program that was stopped: NAME=payments
	@$(ON_STACK)

down: ## Stop the stack and keep the data
	@$(ON_STACK)

reset: ## Stop the stack and delete the data
	@$(ON_STACK)

ps: ## List all programs and their states
	@$(ON_STACK)

logs: ## Follow the logs; of one process only with NAME=orders; lines as they are with FORMAT=json
	@$(ON_STACK)

demo: ## Place three orders through the gateway and print the path of each, event by event
	@$(ON_STACK)

rotate-keys: ## Publish a new key, with which auth will soon sign tokens
	@$(ON_STACK)

events: ## Print every event from the beginning, with Kafka's own console consumer
	@$(ON_STACK)

psql: ## Open psql in the database as orders_user
	@$(ON_STACK)

parked: ## List the events that could not be handled; python -m quickbite has more commands
	@$(ON_STACK)

timeline: ## Show all that happened to an order: ORDER=17
	@$(if $(ORDER),$(ON_STACK),$(error say which order: make timeline ORDER=17))

# Three workers keep two cores busy: tests wait often. Each worker has its own servers, and a group of files stays on one.
PARALLEL := -n 3 -p tests.scheduling
test: ## Run all tests, on their own stack; only some with ARGS="tests/unit -k word"
	$(DEV)
	@$(RUN) pytest $(or $(ARGS),$(PARALLEL))

test-unit: ## Run the tests that need no server
	$(DEV)
	@$(RUN) pytest tests/unit

test-fast: ## Run the tests that need no whole stack and kill no server
	$(DEV)
	@$(RUN) pytest $(PARALLEL) -m "not slow" tests/unit tests/migrations tests/integration tests/service

test-long: ## Run the tests of crashes, freezes, upgrades and load again and again: ROUNDS=10
	$(DEV)
	@for round in $$(seq $(or $(ROUNDS),10)); do echo "round $$round"; $(RUN) pytest $(PARALLEL) tests/acceptance || exit 1; done

lint: ## Check format, style, types, imports between packages, and the workflows of CI
	$(DEV)
	@$(RUN) ruff format --check .
	@$(RUN) ruff check .
	@$(RUN) mypy
	@.venv/bin/lint-imports
	@.venv/bin/zizmor --offline --quiet .github

actionlint: .local/tools/actionlint ## Check the workflows of CI once more, with a tool that Go builds
	@.local/tools/actionlint

.local/tools/actionlint:
	@GOBIN=$(CURDIR)/.local/tools go install github.com/rhysd/actionlint/cmd/actionlint@v1.7.12

check: lint test ## Run everything that CI runs

smoke: ## Let some customers shop through the gateway of any stack: URL=https://shop.example
	$(DEV)
	@$(if $(URL),$(RUN) tests.acceptance.smoke "$$URL",$(error say where: make smoke URL=http://127.0.0.1:8000))

bench: .local/bench-tools/generator ## Run all benchmarks; only one with ARGS=name; the figures into a file with RESULTS=results.json
	$(DEV)
	@$(RUN) bench $(if $(RESULTS),--results $(RESULTS) --version "$$($(RUN) documents.release version)") $(ARGS)

bench-history: ## Add RESULTS to the benchmarks in the folder HISTORY, and draw them
	$(DEV)
	@$(RUN) bench.history $(or $(RESULTS),results.json) $(or $(HISTORY),.local/history)

version: ## Print the version of this folder, from the last tag
	$(DEV)
	@$(RUN) documents.release version

release-notes: ## Print the notes of a release from CHANGELOG.md, if this folder is that release: VERSION=0.2.0
	$(DEV)
	@$(if $(VERSION),$(RUN) documents.release notes "$$VERSION" --image "$$IMAGE",$(error say which: make release-notes VERSION=0.2.0))

image: ## Build the image of this commit, for example with VERSION=0.1.0 TAG=registry.example/quickbite:0.1.0
	@docker build $(MORE) --label org.opencontainers.image.revision="$$(git rev-parse HEAD)" \
		--label org.opencontainers.image.version="$(VERSION)" --tag $(or $(TAG),quickbite) .

PUSHED = --push --provenance=mode=max --sbom=true --metadata-file .local/image.json
image-push: ## Build the image and push it, with its list of contents and how it was built: IMAGE=registry.example/quickbite
	$(DEV)
	@version=$$($(RUN) documents.release version) && mkdir -p .local && \
		$(MAKE) image MORE="$(PUSHED)" VERSION="$$version" TAG="$$IMAGE:$$version"

image-outputs: ## Print the digest of the image that was pushed, for CI
	@$(RUN) documents.release outputs .local/image.json "$$IMAGE"

ON_CLUSTER := kubectl --namespace quickbite
deploy: ## Put an image on the cluster that kubectl knows: OVERLAY=local IMAGE=registry.example/quickbite@sha256:…
	$(DEV)
	@$(RUN) documents.release overlay .local/deploy "$$OVERLAY" "$$IMAGE"
	@$(ON_CLUSTER) delete job migrate --ignore-not-found
	@$(ON_CLUSTER) apply --server-side -k .local/deploy
	@$(ON_CLUSTER) rollout status deployments --selector app.kubernetes.io/part-of=quickbite --timeout 15m

rollback: ## Put the release before back on the cluster. The tables stay: the code before runs on them
	@$(ON_CLUSTER) rollout undo deployments --selector app.kubernetes.io/part-of=quickbite
	@$(ON_CLUSTER) rollout status deployments --selector app.kubernetes.io/part-of=quickbite --timeout 15m

docs: ## Write docs/openapi, events, asyncapi.json, problems.md, settings.md, .env.example and deploy/dashboards from the code
	$(DEV)
	@$(RUN) documents

site: .local/site-tools ## Build the documents as a web site in .local/site, with an environment of its own
	@NO_MKDOCS_2_WARNING=1 .local/site-tools/bin/mkdocs build --quiet
	@echo "Read it: python3 -m http.server --directory .local/site"

.local/site-tools: requirements/site.txt
	@rm -rf $@ && $(PYTHON) -m venv $@
	@$@/bin/pip install --quiet --disable-pip-version-check --require-hashes -r $< || (rm -rf $@; exit 1)

screenshots: ## Take the pictures of README.md and docs/seeing.md with Chromium, from a stack of its own
	$(DEV)
	@$(RUN) tests.browser.screenshots

format: ## Format the code and fix what ruff can fix
	$(DEV)
	@$(RUN) ruff format .
	@$(RUN) ruff check --fix .

LOCK := .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	--no-emit-index-url --no-emit-find-links
lock: ## Choose and pin the newest versions that requirements/*.in, the example and local/jgo.toml allow
	$(DEV)
	@$(RUN) pip install --quiet uv
	$(LOCK) --upgrade requirements/dev.in -o requirements/dev.txt
	$(LOCK) --constraint requirements/dev.txt requirements/local.in -o requirements/local.txt
	$(LOCK) --constraint requirements/dev.txt requirements/run.in -o requirements/run.txt
	$(LOCK) --upgrade requirements/site.in -o requirements/site.txt
	$(LOCK) --upgrade requirements/bench.in -o requirements/bench.txt
	$(LOCK) --constraint requirements/dev.txt examples/shipping/requirements.in -o examples/shipping/requirements.txt
	cd local && ../.venv/bin/jgo lock

NAMED = $(or $(NAME),$(error say which program: make $@ NAME=payments))
up-local = $(BOOTSTRAP) check local && $(LOCAL) up
restart-local = $(LOCAL) restart $(NAME)
stop-local = $(LOCAL) stop $(NAMED)
start-local = $(LOCAL) start $(NAMED)
down-local = $(LOCAL) down
reset-local = $(LOCAL) reset
ps-local = $(LOCAL) ps
logs-local = $(LOCAL) logs -f $(NAME)
demo-local = $(LOCAL) quickbite demo
parked-local = $(LOCAL) quickbite parked list
timeline-local = $(LOCAL) quickbite order timeline $(ORDER)
rotate-keys-local = $(LOCAL) rotate-keys
events-local = $(LOCAL) events
psql-local = $(LOCAL) psql

define WELCOME

  shop     http://127.0.0.1:$(or $(GATEWAY_PORT),80)/    (order something, and see each step)
  orders   http://127.0.0.1:$(or $(ORDERS_PORT),8080)/v1/orders
  gateway  http://127.0.0.1:$(or $(GATEWAY_PORT),80)    (admin / $(if $(ADMIN_PASSWORD),$$ADMIN_PASSWORD,password))
  the API  http://127.0.0.1:$(or $(GATEWAY_PORT),80)/docs
  console  http://127.0.0.1:$(or $(GATEWAY_PORT),80)/console/    (log in as admin; if the gateway is down: http://127.0.0.1:$(or $(CONSOLE_PORT),8086)/console/)

Place an order, then ask for its result:

  curl -s http://127.0.0.1:$(or $(ORDERS_PORT),8080)/v1/orders -H 'content-type: application/json' -d '{"userId":"u1","sku":"burger","quantity":2}'
  curl -s 'http://127.0.0.1:$(or $(ORDERS_PORT),8080)/v1/orders/1?wait=10'

Or watch three orders, event by event: make demo

endef
export WELCOME
TOOLS := docker compose run --rm --no-deps
up-compose = $(if $(SEE),$(error SEE=$(SEE) is for the embedded stack. In Docker use COMPOSE_PROFILES=observability))$(if \
	$(shell command -v $(PYTHON)),$(BOOTSTRAP) check compose &&) docker compose up --build --detach --wait && echo "$$WELCOME"
restart-compose = docker compose build && docker compose up --detach --wait $(NAME)
stop-compose = docker compose stop $(NAMED:postgres=db)
start-compose = docker compose start $(NAMED:postgres=db)
down-compose = COMPOSE_PROFILES=observability docker compose down
reset-compose = COMPOSE_PROFILES=observability docker compose down --volumes
ps-compose = docker compose ps
logs-compose = if [ -t 1 ] && [ "$(FORMAT)" != json ]; \
	then docker compose logs --no-color --follow --tail 50 $(NAME) | $(TOOLS) -T tools python -m shared.process.readable --colour; \
	else docker compose logs --no-log-prefix --follow --tail 50 $(NAME); fi
demo-compose = $(TOOLS) tools python -m quickbite demo
parked-compose = $(TOOLS) tools python -m quickbite parked list
timeline-compose = $(TOOLS) tools python -m quickbite order timeline $(ORDER)
rotate-keys-compose = docker compose exec auth python -m auth rotate-keys
events-compose = docker compose exec kafka /opt/kafka/bin/kafka-console-consumer.sh --bootstrap-server kafka:9092 \
	--command-config /run/secrets/reader.properties \
	--include '.*\.events' --from-beginning $(addprefix --formatter-property print.,\
	$(addsuffix =true,timestamp partition offset key headers))
psql-compose = docker compose exec --env PGOPTIONS=--search_path=orders db psql --username orders_user quickbite
