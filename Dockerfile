# The daemon, and the command line with it. See docs/container.md.
#
# BASE is any image with python3 (3.11 or newer) and venv. Name it by digest for builds that can be repeated.
ARG BASE=python:3.13-slim-bookworm

FROM ${BASE} AS build
# For a build without a network, or with an index of one's own: pip reads these.
ARG PIP_INDEX_URL PIP_NO_INDEX PIP_FIND_LINKS
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY docker/constraints.txt docker/
COPY client client/
COPY daemon daemon/
ENV PIP_CONSTRAINT=docker/constraints.txt PIP_NO_CACHE_DIR=1
RUN python3 -m venv /opt/skillmeter && /opt/skillmeter/bin/pip install '.[daemon]'
# What is in it, as a list in CycloneDX. The tool that makes the list stays out of the image, and so does pip.
RUN python3 -m venv --without-pip /opt/list \
 && /opt/skillmeter/bin/pip --python /opt/list/bin/python3 install --no-compile cyclonedx-bom \
 && /opt/skillmeter/bin/pip uninstall --yes pip setuptools \
 && /opt/list/bin/cyclonedx-py environment --output-reproducible --of JSON -o /sbom.cdx.json /opt/skillmeter/bin/python3
# Socket, spool and database. The set-group-id bit is how client and daemon see that they are to share through the group.
RUN install -d -m 2770 -o 10001 -g 10001 /folders/run/skillmeter /folders/var/spool/skillmeter \
 && install -d -m 0700 -o 10001 -g 10001 /folders/var/lib/skillmeter

FROM ${BASE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="skillmeter" \
      org.opencontainers.image.description="Usage analytics for AI-agent skills: the daemon" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /opt/skillmeter /opt/skillmeter
COPY --from=build /folders/ /
COPY --from=build /sbom.cdx.json /usr/share/doc/skillmeter/
ENV PATH=/opt/skillmeter/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    ANALYTICS_BACKEND=prometheus \
    ANALYTICS_DB_PATH=/var/lib/skillmeter/analytics.db \
    SQLITE_TMPDIR=/var/lib/skillmeter \
    PROMETHEUS_HOST=0.0.0.0
USER 10001:10001
WORKDIR /
EXPOSE 8000
ENTRYPOINT ["skillmeter"]
CMD ["run"]
