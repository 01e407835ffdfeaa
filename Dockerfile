# One image with both binaries and nothing else: they are static, so the root is empty.
#
# With a registry:     docker build --tag quorate .
# Without a network:   cargo xtask image
# The last stage takes everything from the stage `build`. The second command builds the binaries on the machine itself and puts
# their folder in its place: `buildah bud --build-context build=FOLDER .`

FROM docker.io/library/rust:1.95-slim AS build
WORKDIR /src
COPY . .
# The flag decides how a program is linked, so it goes to the last crate alone: build scripts and procedural macros, which cannot be
# static, do without.
RUN for name in quorate quorate-operator; do \
        cargo rustc --locked --profile image --package "$name" --bin "$name" -- -C target-feature=+crt-static \
        && mv "target/image/$name" / || exit 1; \
    done

FROM scratch
COPY --from=build /quorate /quorate-operator /
# Client, peer, metrics.
EXPOSE 2379 2380 2381
USER 65532:65532
ENTRYPOINT ["/quorate"]
