# SPDX-License-Identifier: Apache-2.0
#
# Image with one static binary, CA certificates and an SBOM, without shell and libc.
#
#   docker build -t sotto .                                 for this machine; --platform linux/arm64 cross-builds (BuildKit)
#   docker run --rm --read-only --tmpfs /run/sotto -p 11222:53/udp -p 11222:53/tcp sotto          forward DNS over TLS
#
# Sealing a host or other containers needs capabilities and mounts: see profile `seal` in compose.yaml.

# The compiler runs on the machine that builds, whatever the target. Without BuildKit the variable is empty.
FROM --platform=${BUILDPLATFORM:-linux} golang:1.26-bookworm AS go

FROM go AS sbom-tool
# Optional Go module proxy and checksum database (--build-arg GOPROXY=…).
ARG GOPROXY
ARG GOSUMDB
WORKDIR /src/deploy/packages
COPY deploy/packages/go.mod deploy/packages/go.sum ./
RUN CGO_ENABLED=0 go build -o /out/cyclonedx-gomod github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod

FROM go AS build
ARG GOPROXY
ARG GOSUMDB
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION
ARG TARGETARCH
RUN CGO_ENABLED=0 GOARCH=${TARGETARCH} go build -trimpath -buildvcs=false -ldflags "-s -w -buildid= -X main.version=${VERSION}" -o /out/sotto ./cmd/sotto
COPY --from=sbom-tool /out/cyclonedx-gomod /out/cyclonedx-gomod
RUN /out/cyclonedx-gomod bin -json -std -noserial -notimestamp -output /out/sbom.cdx.json -version "${VERSION:-v0.0.0}" /out/sotto

FROM scratch
ARG VERSION
ARG REVISION
ARG CREATED
LABEL org.opencontainers.image.title="sotto" \
	org.opencontainers.image.description="DNS over TLS for every program on a host: sealed with eBPF, or as a forwarder" \
	org.opencontainers.image.licenses="Apache-2.0 AND (GPL-2.0-only OR BSD-2-Clause)" \
	org.opencontainers.image.version="${VERSION}" \
	org.opencontainers.image.revision="${REVISION}" \
	org.opencontainers.image.created="${CREATED}" \
	org.cyclonedx.sbom="/usr/share/doc/sotto/sbom.cdx.json"
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/sbom.cdx.json /usr/share/doc/sotto/sbom.cdx.json
# Gives `sotto serve` a control socket, which the health check asks. A configuration that is mounted instead should have this
# line, too, and a read-only container a tmpfs at /run/sotto.
COPY --from=build /src/deploy/docker/sotto.toml /etc/sotto/sotto.toml
COPY --from=build /out/sotto /sotto
EXPOSE 53/udp 53/tcp
# Before the first answer Docker reports "starting".
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s CMD ["/sotto", "status", "--ready"]
ENTRYPOINT ["/sotto"]
CMD ["serve", "--listen", ":53"]
