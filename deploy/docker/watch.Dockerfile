# SPDX-License-Identifier: Apache-2.0
#
# The image of service `watch` in compose.yaml: as ../../Dockerfile, but built with the caches of the last build, so that a
# change of one file takes seconds. Needs BuildKit.
FROM golang:1.26-bookworm AS build
ARG GOPROXY
ARG GOSUMDB
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
	CGO_ENABLED=0 GOMODCACHE=/go/pkg/mod GOCACHE=/root/.cache/go-build go build -trimpath -buildvcs=false -o /out/sotto ./cmd/sotto

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /src/deploy/docker/sotto.toml /etc/sotto/sotto.toml
COPY --from=build /out/sotto /sotto
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s CMD ["/sotto", "status", "--ready"]
ENTRYPOINT ["/sotto"]
CMD ["serve", "--listen", ":53"]
