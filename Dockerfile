# The indexer, small and without root:
#   docker build -t cdc-indexer .
#   docker run -v ./config.json:/etc/cdc-indexer/config.json:ro -v ./server.json:/etc/cdc-indexer/server.json:ro \
#              -v cdc-indexer-state:/var/lib/cdc-indexer cdc-indexer
# docker-compose.yml also builds the target "demo", which has the simulated archive, and "central", the reference central index:
#   docker build --target central -t central-index .

FROM python:3.12-slim AS package
WORKDIR /opt/cdc-indexer
COPY pyproject.toml README.md LICENSE ./
COPY cdc_indexer cdc_indexer
COPY extras extras
RUN pip install --no-cache-dir --disable-pip-version-check . && rm -rf build *.egg-info
RUN useradd --system --uid 10001 --home-dir /var/lib/cdc-indexer --create-home cdc-indexer


FROM package AS demo
RUN pip install --no-cache-dir --disable-pip-version-check '.[demo]' && rm -rf build *.egg-info
# A volume that is mounted here belongs to this account from the start.
RUN install -d -o 10001 -m 700 /var/lib/central
USER 10001


FROM package AS central
RUN pip install --no-cache-dir --disable-pip-version-check '.[central]' && rm -rf build *.egg-info
# A volume that is mounted here belongs to this account from the start.
RUN install -d -o 10001 -m 700 /var/lib/central
ENV CENTRAL_LISTEN=0.0.0.0:8080 CENTRAL_DATABASE=/var/lib/central/central.sqlite CENTRAL_KEYS=/run/secrets/keys
VOLUME /var/lib/central
WORKDIR /var/lib/central
USER 10001
HEALTHCHECK --start-period=30s --interval=30s --timeout=5s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/healthz', timeout=4)"]
ENTRYPOINT ["python", "-m", "central_index"]


FROM package AS indexer
ENV CDC_INDEXER_STATE_DIR=/var/lib/cdc-indexer
VOLUME /var/lib/cdc-indexer
WORKDIR /etc/cdc-indexer
USER 10001
HEALTHCHECK --start-period=30s --interval=30s --timeout=5s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9108/healthz', timeout=4)"]
ENTRYPOINT ["python", "-m", "cdc_indexer"]
CMD ["run"]
