# SPDX-License-Identifier: Apache-2.0
#
# Image with one static binary and CA certificates, without shell and libc.
#
#   docker build -t sotto .
#   docker run --rm -p 11222:53/udp -p 11222:53/tcp sotto          forward DNS over TLS
#
# Sealing a host or other containers needs capabilities and mounts: see profile `seal` in compose.yaml.
FROM golang:1.26-bookworm AS build
WORKDIR /src
# Optional Go module proxy and checksum database (--build-arg GOPROXY=…).
ARG GOPROXY
ARG GOSUMDB
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION
RUN CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=${VERSION}" -o /out/sotto ./cmd/sotto

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/sotto /sotto
EXPOSE 53/udp 53/tcp
ENTRYPOINT ["/sotto"]
CMD ["serve", "--listen", ":53"]
