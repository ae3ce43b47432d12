"""Plugins made for a run, as files: where nginx serves them as the plugin server it is, and as a registry."""

import gzip
import hashlib
import io
import json
import os
import random
import tarfile

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
RAW = "application/vnd.module.wasm.content.layer.v1+wasm"
PACKED = "application/vnd.oci.image.layer.v1.tar+gzip"
KIB, MIB = 1 << 10, 1 << 20


def sha256_of(content):
    return hashlib.sha256(content).hexdigest()


def module(size, filling=None):
    """A module of `size` bytes: one custom section, its id 0, its size as LEB128 in five bytes, its name, and
    `filling`, of which the first 16 bytes are replaced by random ones; without it, all are random."""
    rest = size - 14
    length = bytes(rest >> bits & 127 | 128 for bits in (0, 7, 14, 21)) + bytes([rest >> 28])
    filling = os.urandom(16) + filling[16 : rest - 4] if filling else os.urandom(rest - 4)
    return b"\0asm\1\0\0\0\0" + length + b"\3any" + filling


def filling(size):
    """Bytes that gzip packs to about a third, as it does with modules: new ones, and twice as many seen shortly
    before."""
    made = bytearray(os.urandom(32 * KIB))
    while len(made) < size:
        made += os.urandom(96)
        for _ in range(2):
            start = len(made) - random.randrange(96, 32 * KIB)
            made += made[start : start + 96]
    return bytes(made[:size])


def packed(module):
    """As Higress publishes modules: a tar.gz with plugin.wasm."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        entry = tarfile.TarInfo("plugin.wasm")
        entry.size = len(module)
        tar.addfile(entry, io.BytesIO(module))
    return gzip.compress(plain.getvalue(), 1)


class Plugin:
    """A plugin below `www`: baked, and as an artifact whose layer is the module, or a tar.gz of it."""

    def __init__(self, www, name, module, pack=False):
        self.name, self.module, self.sha256 = name, module, sha256_of(module)
        self.path = f"/plugins/{name}/1.0.0/plugin.wasm"
        layer = packed(module) if pack else module
        self.layer_bytes = len(layer)
        digest = sha256_of(layer)
        self.blob = f"/v2/plugins/{name}/blobs/sha256:{digest}"
        baked, blob = www / self.path[1:], www / self.blob[1:]
        for file in (baked, blob):
            file.parent.mkdir(parents=True)
        baked.write_bytes(module)
        if pack:
            blob.write_bytes(layer)
        else:
            blob.hardlink_to(baked)
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {
                "mediaType": "application/vnd.oci.empty.v1+json",
                "digest": f"sha256:{sha256_of(b'{}')}",
                "size": 2,
            },
            "layers": [{"mediaType": PACKED if pack else RAW, "digest": f"sha256:{digest}", "size": len(layer)}],
        }
        manifests = blob.parent.parent / "manifests"
        manifests.mkdir()
        (manifests / "1.0.0").write_text(json.dumps(manifest))
