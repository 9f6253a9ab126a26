"""The paper authors' YAML configurations, as suites, with what in them does not do what it says."""

from um_bench.authors_config.reading import SCRIPTS, Config, read_config
from um_bench.authors_config.remarks import Matter, Remark, as_text, description, remarks
from um_bench.authors_config.toml import suite_toml
from um_bench.authors_config.translation import translate

__all__ = [
    "SCRIPTS",
    "Config",
    "Matter",
    "Remark",
    "as_text",
    "description",
    "read_config",
    "remarks",
    "suite_toml",
    "translate",
]
