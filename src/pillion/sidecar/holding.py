"""Which store holds back the messages of a broker: what its component says, else a file in the data folder.

Stores are imported when they are wanted: most sidecars never delay a message.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from pillion.errors import ComponentError, ConfigError

if TYPE_CHECKING:
    from pillion.blocks.broker import Broker
    from pillion.kinds.holding import Holding

KEY = "pillion.holding"
FILE = "held.db"
_POSTGRES = re.compile(r"postgres(ql)?://|(^|\s)(host|hostaddr|dbname|user)\s*=")


def holding_for(broker: Broker, data_dir: str) -> Holding | None:
    """Return the store for a broker, not yet open; None where nobody named one. Raises `ComponentError`."""
    text = next((value for key, value in broker.metadata.items() if key.lower() == KEY), "").strip()
    if not text and not data_dir:
        return None
    from pillion.components.holding_sqlite import SqliteHolding

    if not text:
        # Made when it is first needed.
        return SqliteHolding(os.path.join(data_dir, FILE), shared=False)
    where = f"component {broker.name}, {KEY}"
    try:
        if not _POSTGRES.search(text):
            return SqliteHolding(text)
        try:
            from pillion.components.holding_postgresql import PostgresHolding
        except ImportError as error:
            raise ComponentError(f"{where}: PostgreSQL needs `pip install 'pillion[postgresql]'`") from error
        return PostgresHolding(text, where)
    except ConfigError as error:
        raise ComponentError(f"{where}: {error}") from error
