"""Coverage-guided fuzzing, by hand and for long: `make fuzz` installs atheris, which the other targets do without."""
