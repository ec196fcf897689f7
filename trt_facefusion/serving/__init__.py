"""One process that answers over HTTP: photos in, a fused photo out, by engines that stand in for each other.

May import: the ground, `storage`, `model`, `engine`, `faces`, `inference`, `evaluation` and `swap`. What speaks HTTP
needs the extra `serve`.

Modules, from the ground up:

    seam                    what the queue asks for, and what answers: faces in, pictures out, with who made them
    engines/                engines that stand in for each other, and candidates for their place
    limits                  how much one request, and all together, may take
    problems                errors as HTTP tells them: status, what happened, what to do
    token                   who may ask
    logs                    one JSON object a line
    metrics                 what is counted, for Prometheus
    batching                the queue in front of the engines, and the one thread that runs them
    pixels                  how many decoded pixels all requests hold
    forms, orders           multipart bodies, in memory; what a client asks for
    service                 an order becomes a picture, among many others
    tensors, tensor_work    the network's own tensors: as they are sent, and put together to batches
    exchange                one request and its reply
    guard                   what every request goes through
    page                    the page to try it (`page.html`)
    routes                  swapping, health, metrics
    inference_protocol      the Open Inference Protocol, version 2
    app, server             all routes; uvicorn, and how it ends

Start with `service.py`.
"""
