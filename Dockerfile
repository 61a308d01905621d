# The indexer, small and without root:
#   docker build -t cdc-indexer .
#   docker run -v ./etc:/etc/cdc-indexer:ro -v cdc-indexer-state:/var/lib/cdc-indexer cdc-indexer
# with config.json and server.json in ./etc: the directory, since a file that is mounted alone isn't seen any more once it is replaced.
# docker-compose.yml also builds the target "demo", which has the simulated archive, and "central", the reference central index:
#   docker build --target central -t central-index .
#   docker run -v ./keys:/etc/central-index -v central-index:/var/lib/central -p 127.0.0.1:8080:8080 central-index
# with keys.json in ./keys. In the volume are the studies, or with CENTRAL_DATABASE=postgresql://... the record's audit.key.

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
ENV CENTRAL_LISTEN=0.0.0.0:8080 CENTRAL_DATABASE=/var/lib/central/central.sqlite CENTRAL_KEYS=/etc/central-index/keys.json
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
