# A static program in an empty image:
#   docker build -t llmstd .
#   docker run --rm -v "$PWD:/models:ro" llmstd validate -r /models
FROM rust:1.95-alpine AS build
RUN apk add --no-cache musl-dev
WORKDIR /src
COPY . .
RUN cargo build --release --locked --bin llmstd

FROM scratch
COPY --from=build /src/target/release/llmstd /llmstd
USER 65534:65534
ENTRYPOINT ["/llmstd"]
