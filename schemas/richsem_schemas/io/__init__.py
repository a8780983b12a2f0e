"""Files and URLs: read within limits, written whole or not at all, sealed with their checksum."""
