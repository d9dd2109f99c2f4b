# Copyright The Pillion Authors
# SPDX-License-Identifier: Apache-2.0
"""Messages of the task hub, which has no package. Generated from proto/ by scripts/generate: do not edit."""

from pillion.wire.messages._pool import exports

__getattr__, __dir__ = exports("", globals())
