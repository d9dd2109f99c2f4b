# Copyright The Pillion Authors
# SPDX-License-Identifier: Apache-2.0
"""Messages of the package pillion.scheduler.v1. Generated from proto/ by scripts/generate: do not edit."""

from pillion.wire.messages._pool import exports

__getattr__, __dir__ = exports("pillion.scheduler.v1", globals())
