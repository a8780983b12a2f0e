"""Several teachers on somebody's own labelled boxes: how well each knows them, what it costs, and which to take."""
