# The BIDS App: docker build -t isochroma .
# With CUDA: docker build --build-arg TORCH="torch" -t isochroma:cuda .
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS build
ARG TORCH="torch --index-url https://download.pytorch.org/whl/cpu"
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY src src
# hadolint ignore=SC2086,DL3013
RUN python3 -m venv /opt/isochroma \
    && /opt/isochroma/bin/pip install --no-cache-dir ${TORCH} \
    && /opt/isochroma/bin/pip install --no-cache-dir ".[bids]" \
    && find /opt/isochroma -name tests -type d -prune -exec rm -r {} +

FROM ${BASE}
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --no-create-home isochroma
COPY --from=build /opt/isochroma /opt/isochroma
ENV PATH=/opt/isochroma/bin:${PATH} \
    HOME=/tmp
USER 1000
ENTRYPOINT ["isochroma-bids"]
