"""Coverage-guided fuzzing, by hand and for long: needs atheris, which the locked tools leave out."""
