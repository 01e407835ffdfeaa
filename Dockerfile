# One image with both binaries and nothing else: they are static, so the root is empty.
#
# The last stage takes everything from the stage `build`. Where that stage cannot run (no network), a folder with both
# binaries takes its place: `buildah bud --build-context build=FOLDER .`

FROM docker.io/library/rust:1.95-slim AS build
WORKDIR /src
COPY . .
# Naming the target keeps the flag away from build scripts and procedural macros, which cannot be static.
RUN target="$(uname -m)-unknown-linux-gnu" \
    && RUSTFLAGS="-C target-feature=+crt-static" \
       cargo build --release --locked --target "$target" --package quorate --package quorate-operator \
    && cp "target/$target/release/quorate" "target/$target/release/quorate-operator" /

FROM scratch
COPY --from=build /quorate /quorate-operator /
# Client, peer, metrics.
EXPOSE 2379 2380 2381
USER 65532:65532
ENTRYPOINT ["/quorate"]
