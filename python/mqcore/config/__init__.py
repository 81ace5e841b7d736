"""Settings: every key, its type, default, unit and range, in one place; what does not fit is an InvalidConfigError."""

from mqcore.config.store import StoreConfig
from mqcore.config.topic import TopicConfig

__all__ = ["StoreConfig", "TopicConfig"]
