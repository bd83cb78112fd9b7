"""Mistakes reproduced for study, and the runs that show what each of them, and each choice, is worth."""
