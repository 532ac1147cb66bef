"""An HTTP server with OpenAI's completion and chat interface (`maskdiff serve`, docs/serving.md).

    from maskdiff.serving.app import create_app
    from maskdiff.serving.model import ServedModel
    from maskdiff.serving.server import run_in_thread

    model = ServedModel(backend, "toy", lambda text: text + ">", max_tokens=256)
    with run_in_thread(create_app(model)) as base_url:
        openai.OpenAI(base_url=base_url, api_key="none").models.list()

It serves any `maskdiff.stepwise.protocol.StepBackend` of text and has no authentication. This
module imports nothing, because fastapi and uvicorn are an extra (`pip install "maskdiff[serve]"`).
"""
