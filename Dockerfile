# SPDX-License-Identifier: Apache-2.0

# The image of callguard: every program, static, at the root, with its licences, and nothing else. `make image` builds the same from a checkout
# without a container engine; the tests of hack/oci keep the two equal.
FROM --platform=$BUILDPLATFORM golang:1.26.8-bookworm@sha256:dc9ad6c05acc7a88e5b71bde60a5fe3bd4b9f0db209011711b464107438a8107 AS build
WORKDIR /src
ENV CGO_ENABLED=0 GOOS=linux GOFLAGS= GOWORK=off GOTOOLCHAIN=go1.26.11
COPY go.mod go.sum ./
RUN go mod download
COPY cmd cmd
COPY manifests manifests
COPY pkg pkg
ARG TARGETARCH
ARG VERSION=dev
RUN GOARCH=$TARGETARCH go build -trimpath -buildvcs=false "-ldflags=-s -w -buildid= -X github.com/callguard/callguard/manifests.version=$VERSION" -o /out/ ./cmd/...

FROM scratch
LABEL org.opencontainers.image.title=callguard \
      org.opencontainers.image.source=https://github.com/callguard/callguard \
      org.opencontainers.image.licenses=Apache-2.0
COPY --from=build /out/ /
COPY LICENSE THIRD_PARTY_NOTICES /
USER 65532:65532
