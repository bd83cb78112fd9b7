"""Beta policies beside a Gaussian on small tasks: parameterizations, and remedies for actions at the bounds."""
