"""The command lines of both tracks: what their verbs take, and what each verb calls."""
