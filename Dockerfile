# A server for one model on CPUs. Build: docker build -t embedfit .
# Run:   docker run --rm -p 8080:8080 -v "$PWD/runs/em/merged:/opt/ml/model:ro" embedfit
# SageMaker starts a container with the argument `serve`, and so can you.

FROM python:3.12-slim AS build
ENV PIP_NO_CACHE_DIR=1
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src ./src
# torch only converts the model. An index that has its CPU builds, given as
# --build-arg PIP_EXTRA_INDEX_URL=..., makes the image several gigabytes smaller.
ARG PIP_EXTRA_INDEX_URL=
RUN python -m venv /opt/embedfit && /opt/embedfit/bin/pip install -c constraints.txt ".[mcp]"

FROM python:3.12-slim
# The cache is made here so that a volume mounted on it belongs to the user.
RUN useradd --create-home --uid 1000 embedfit \
    && install -d -o embedfit -g embedfit /home/embedfit/.cache /home/embedfit/.cache/embedfit
COPY --from=build /opt/embedfit /opt/embedfit
ENV PATH=/opt/embedfit/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    EMBEDFIT_HOST=0.0.0.0 \
    PORT=8080 \
    HF_MODEL_ID=/opt/ml/model \
    EMBEDFIT_CACHE=/home/embedfit/.cache/embedfit
USER embedfit
WORKDIR /home/embedfit
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f\"http://127.0.0.1:{os.environ['PORT']}/health\", timeout=4)"]
ENTRYPOINT ["embedfit"]
CMD ["serve"]
