"""People's own labelled pictures: read in the formats that labelling tools write, cleaned, split and written anew."""
