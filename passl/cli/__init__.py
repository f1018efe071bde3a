"""The command `passl`: one file per command. `dispatch` finds it, `options` has what they share."""
