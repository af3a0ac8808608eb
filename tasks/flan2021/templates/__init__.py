"""Templates of FLAN2021's data sets, one TOML file each."""
