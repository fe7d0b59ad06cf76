# The service in a container. The default target speaks to model services elsewhere; the target `local` adds the speech
# extra (espeak-ng is GPL), with which the model on this machine listens and speaks.
#   docker build -t voice-bridge .
#   docker build -t voice-bridge:local --target local .
ARG PYTHON_IMAGE=python:3.13-slim

FROM ${PYTHON_IMAGE} AS build
# The system's certificates, so that a build behind a proxy of one's own works with certificates mounted or copied in.
# Bytecode is compiled here once and not checked against dates, which a copy into another stage may change.
ENV UV_SYSTEM_CERTS=1 UV_COMPILE_BYTECODE=1 PYC_INVALIDATION_MODE=UNCHECKED_HASH UV_LINK_MODE=copy \
    UV_PYTHON_DOWNLOADS=never UV_PROJECT_ENVIRONMENT=/opt/voice-bridge
RUN python -m pip install --no-cache-dir uv
WORKDIR /src
COPY pyproject.toml uv.lock ./
RUN uv sync --frozen --no-dev --no-editable --no-install-project
COPY README.md LICENSE ./
COPY config config
COPY bridge bridge
RUN uv sync --frozen --no-dev --no-editable

FROM build AS build-local
RUN uv sync --frozen --no-dev --no-editable --extra local

FROM ${PYTHON_IMAGE} AS runtime
RUN useradd --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin bridge
# /app/config, if mounted, is the configuration; without it the packaged sample.
WORKDIR /app
ENV PATH=/opt/voice-bridge/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 BRIDGE_HOST=0.0.0.0 BRIDGE_PORT=8080
USER 10001
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ['BRIDGE_PORT'] + '/healthz', timeout=2)"]
ENTRYPOINT ["voice-bridge"]
CMD ["serve"]

FROM runtime AS local
COPY --from=build-local /opt/voice-bridge /opt/voice-bridge

FROM runtime
COPY --from=build /opt/voice-bridge /opt/voice-bridge
