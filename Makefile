# Sidehop on this machine. `make` alone lists what there is.
.DEFAULT_GOAL := help
.PHONY: help install run test foreign lint demo drill bench lab lab-kill lab-start lab-stop lab-status clean

LISTEN ?= 127.0.0.1:5672
ADMIN  ?= 127.0.0.1:15680
LAB    := .venv/bin/python deploy/lab/lab.py
NUMBER  = $(or $(N),$(error which broker? Say it as in: make $@ N=2))

help: ## this list
	@echo "Sidehop keeps AMQP connections alive while brokers come and go. Start with: make run"
	@echo
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-20s %s\n", $$1, $$2}'
	@echo
	@echo "  make run LISTEN=127.0.0.1:5673        another port, when 5672 is taken; ADMIN= moves the admin API"
	@echo "  make run ETCD=http://host:2379        your own etcd (several: separated by blanks), no lab"
	@echo "  make run NODES='host:5672 host:5673'  your own brokers, no etcd, no lab"
	@echo "  make run POLICY=least_connections     another balancing policy"

install: ## .venv with the package in it, so that .venv/bin/sidehop runs
	@deploy/lab/venv.sh try

run: install ## Sidehop in front of a local three-node RabbitMQ cluster and etcd; Ctrl-C stops all of it
	@$(if $(ETCD)$(NODES),,deploy/lab/packages.sh rabbitmq etcd &&) exec $(LAB) run --listen $(LISTEN) --admin $(ADMIN) \
	  $(foreach url,$(ETCD),--etcd $(url)) $(foreach node,$(NODES),--node $(node)) \
	  $(if $(POLICY),--policy $(POLICY))

test: ## everything: lint, types, import contracts, unit, property and integration tests
	@deploy/lab/venv.sh dev
	@deploy/lab/packages.sh rabbitmq etcd haproxy valgrind
	@.venv/bin/python -m tests.foreign --prepare --suite py-amqp
	@without=$$(deploy/lab/rabbitmq4.sh >&2 || echo --ignore=tests/integration/test_rabbitmq4.py); \
	  [ -z "$$without" ] || echo "the tests on RabbitMQ 4.0 are left out, everything else runs"; \
	  exec .venv/bin/python -m pytest $$without $(ARGS)

foreign: ## the tests that client libraries ship, directly and through Sidehop, compared: over an hour
	@deploy/lab/venv.sh dev
	@deploy/lab/packages.sh rabbitmq
	@exec .venv/bin/python -m tests.foreign $(ARGS)

lint: ## what the style tools say, quickly
	@deploy/lab/venv.sh dev
	@exec .venv/bin/python -m pytest -q tests/test_lint.py

demo: ## brokers killed under load, a table of what clients saw: over an hour; make demo ARGS=--quick: about two minutes
	@deploy/lab/venv.sh dev
	@deploy/lab/packages.sh rabbitmq etcd haproxy
	@exec .venv/bin/python -m benchmarks.drill $(ARGS)

drill: ## every workload, queue type and fault through Sidehop, a table of what clients saw: hours; ARGS chooses less
	@deploy/lab/venv.sh dev
	@deploy/lab/packages.sh rabbitmq etcd haproxy compiler librabbitmq-dev
	@exec .venv/bin/python -m benchmarks.drill --all $(ARGS)

bench: ## throughput and latency, side by side with HAProxy, nginx and a direct connection
	@deploy/lab/venv.sh dev
	@deploy/lab/packages.sh rabbitmq etcd haproxy nginx compiler
	@exec .venv/bin/python -m benchmarks $(ARGS)

lab: install ## only the lab: etcd and three brokers, registered, in the background
	@deploy/lab/packages.sh rabbitmq etcd
	@exec $(LAB) up

lab-kill: install ## kill -9 one broker of the lab: make lab-kill N=2
	@exec $(LAB) kill $(NUMBER)

lab-start: install ## start it again: make lab-start N=2
	@exec $(LAB) start $(NUMBER)

lab-stop: install ## stop the lab; its data stays in .lab
	@exec $(LAB) down

lab-status: install ## what of the lab is up
	@exec $(LAB) status

clean: ## remove what was built and the lab's data, not .venv
	@[ ! -x .venv/bin/python ] || $(LAB) wipe
	@find proxy -name '*.so' -delete
	@rm -rf build dist *.egg-info .lab .mypy_cache .ruff_cache .pytest_cache .hypothesis
