"""What a run leaves behind for people: tables, curves and one self-contained HTML page, made from its folder alone."""
