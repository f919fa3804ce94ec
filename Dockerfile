# Two stages: one has a compiler, the other neither compiler nor pip nor sources that are not installed.
FROM python:3.11-slim AS build
# hadolint ignore=DL3008  # the base image fixes the release of the distribution, and with it the compiler
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY pyproject.toml setup.py README.md LICENSE ./
COPY proxy proxy
# An image that silently runs the slow engine is worse than none. pip writes the bytecode, which makes the start three
# times quicker; a read-only file system could not write it later.
ENV SIDEHOP_REQUIRE_EXT=1
RUN python -m venv /opt/sidehop \
    && /opt/sidehop/bin/pip install --no-cache-dir . \
    && /opt/sidehop/bin/pip uninstall --yes pip setuptools

FROM python:3.11-slim
COPY --from=build /opt/sidehop /opt/sidehop
ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# A number, so that Kubernetes can see that it is not root.
USER 65532:65532
EXPOSE 5672 15680
ENTRYPOINT ["/opt/sidehop/bin/sidehop"]
CMD ["run", "--config", "/etc/sidehop/sidehop.yaml"]
