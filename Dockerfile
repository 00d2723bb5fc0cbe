# syntax=docker/dockerfile:1

FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY lua ./lua
COPY service ./service
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv /opt/matinee && /opt/matinee/bin/pip install --disable-pip-version-check .

FROM python:3.13-slim
# /data holds the embedded server's tickets. It is made here because a volume takes its owner from the image.
RUN groupadd --gid 10001 matinee \
    && useradd --uid 10001 --gid matinee --no-create-home --home-dir /data --shell /usr/sbin/nologin matinee \
    && install --directory --owner matinee --group matinee --mode 700 /data
COPY --from=build /opt/matinee /opt/matinee
# A container is reached from outside, so it listens on every address. Without a staff token Matinee is in protected
# mode and refuses to do that: run the image with --env MATINEE_STAFF_TOKEN=<a long random secret>.
ENV PATH=/opt/matinee/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    MATINEE_HOST=0.0.0.0 \
    MATINEE_DATA_DIR=/data
# By number, so that Kubernetes can verify that it is not root.
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 5000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=15s CMD ["matinee", "health"]
ENTRYPOINT ["matinee"]
CMD ["serve"]
