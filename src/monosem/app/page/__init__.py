"""The page of finished and running runs: `monosem app RUN`.

Flow: `library` knows the runs and reads what their stages wrote; `views` turn that into HTML, pure functions with
autoescape; `explore`, `reader`, `playground` and `training` wire views to Gradio's events, a tab each; `serve` puts
them behind a door on this machine. Nothing here trains, and no request leaves the machine.
"""
