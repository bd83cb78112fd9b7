"""Mistakes of published implementations, reproduced for study, and runs that show what each mistake and each choice costs."""
