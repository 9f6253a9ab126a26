"""An adapter that cannot be imported: what um-bench must survive and name."""

raise ImportError("this plugin needs a library that is not here")
