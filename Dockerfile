# Ostiary, one image for both planes:
#
#   docker build -t ostiary .
#   docker run -v "$PWD/ostiary.yaml:/etc/ostiary/ostiary.yaml:ro" -p 8080:8080 ostiary gateway -c /etc/ostiary/ostiary.yaml
#
# The health check asks the gateway's admin listener where the configuration's default has it; a container that runs
# something else says where with OSTIARY_HEALTH_URL (control plane: http://127.0.0.1:8081/healthz).

FROM python:3.13-slim AS build

WORKDIR /src
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/ostiary
# Dependencies first: a layer that stays the same while only our code changes.
COPY pyproject.toml README.md LICENSE ./
COPY requirements ./requirements
RUN /opt/ostiary/bin/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" > dependencies.txt \
    && /opt/ostiary/bin/pip install --constraint requirements/dev.lock --requirement dependencies.txt
COPY hatch_build.py ./
COPY ostiary ./ostiary
COPY lua ./lua
COPY config ./config
COPY docs/problems.md ./docs/problems.md
COPY benchmarks ./benchmarks
# The request path is compiled, twice, and trained in between by what `benchmarks` has (docs/decisions/0007-compiled.md and
# 0039-profiled.md); the compiler stays in this stage.
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && OSTIARY_COMPILE=profiled /opt/ostiary/bin/pip install --no-deps . \
    && /opt/ostiary/bin/pip uninstall --yes pip


FROM python:3.13-slim

# A number, not a name: Kubernetes' runAsNonRoot can check that it is not root's.
RUN groupadd --system --gid 10001 ostiary \
    && useradd --system --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin ostiary \
    && install -d -o 10001 -g 10001 -m 0700 /var/lib/ostiary /var/lib/ostiary/spool
COPY --from=build /opt/ostiary /opt/ostiary
ENV PATH=/opt/ostiary/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    OSTIARY_HEALTH_URL=http://127.0.0.1:9090/healthz

USER 10001:10001
# Usage that is not yet in Postgres: without a volume it goes with the container.
VOLUME /var/lib/ostiary
EXPOSE 8080 8081 9090
# SIGTERM is `docker stop`'s default and drains; give it longer than gateway.drain (30 s): docker stop --time 40
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(os.environ['OSTIARY_HEALTH_URL'], timeout=2)"]

ENTRYPOINT ["ostiary"]
CMD ["--help"]
