"""Who acts and learns, by the names of ``--method_name``."""
