# Copyright The Pillion Authors
# SPDX-License-Identifier: Apache-2.0
"""The messages of the wire, one module for each protobuf package.

`runtime.GetStateRequest` is a class, `runtime.UnlockResponse.SUCCESS` a number; both are made on first use. The schemas
are `proto/`; `scripts/generate` writes the modules, their stubs and `descriptors.bin` from them. Everything lives in a
descriptor pool of our own, well-known types included (`wellknown.Timestamp`), so that other protobuf packages with the
same names can be imported in the same process; messages of the two pools exchange bytes, never objects.
"""

from pillion.wire.messages._pool import message_class, pool

__all__ = ["message_class", "pool"]
