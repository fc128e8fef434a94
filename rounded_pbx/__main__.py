"""``python -m rounded_pbx``, and the ``rounded-pbx`` command."""

from rounded_pbx.cli import main

if __name__ == "__main__":
    main()
