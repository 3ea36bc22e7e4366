# system: what the project needs of Debian. project: the repository and its environment too, ready for make.
FROM python:3.11-slim-bookworm AS system
# Debian keeps only the newest version of a package, so none is named
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends chromium git make openssh-client openssh-server postgresql \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 developer \
    && install --directory --owner developer /project
USER 1000
WORKDIR /project

FROM system AS project
COPY --chown=1000 . .
RUN --mount=type=cache,target=/home/developer/.cache,uid=1000 make .venv/dev
CMD ["make", "repro"]
