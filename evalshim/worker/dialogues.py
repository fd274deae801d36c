"""OpenCompass's dialogues: asked turn by turn, seen as the samples that they are.

ChatInferencer (0.5.4) calls the model once a turn, with one prompt, and knows no retries. Here
a dialogue that lacks an answer is begun anew when the others are done.
"""

import copy


def install():
    from opencompass.openicl.icl_inferencer import ChatInferencer

    for name in ("infer_last", "infer_every", "infer_every_with_gt"):
        setattr(ChatInferencer, name, _seen(getattr(ChatInferencer, name)))
    ChatInferencer.get_chat_list = _kept(ChatInferencer.get_chat_list)


def _kept(get_chat_list):
    def kept(self, *args, **kwargs):
        chats = get_chat_list(self, *args, **kwargs)
        self.last, self.lacking = len(chats) - 1, {}
        return chats

    return kept


def _seen(infer):
    def seen(self, chat, index, output_handler):
        watch = getattr(self.model, "watch", None)
        if watch is None:
            infer(self, chat, index, output_handler)
            return
        # `infer_every` writes what is said into the chat.
        begun = copy.deepcopy(chat)

        def once(sample, chat):
            watch.begin_dialogue(sample)
            try:
                infer(self, chat, sample, output_handler)
            finally:
                watch.end_dialogue()

        once(index, chat)
        if index in watch.errors:
            self.lacking[index] = begun
        if index == self.last and len(self.lacking) <= self.last:
            _ask_again(self, once, output_handler.results_dict)

    return seen


def _ask_again(inferencer, once, results):
    """What lacks an answer, as often as the model's retries say."""
    watch = inferencer.model.watch
    # Its results are those of several samples.
    left = 0 if inferencer.infer_mode == "every_with_gt" else inferencer.model.retries
    for _ in range(left):
        for sample in [s for s in inferencer.lacking if s in watch.errors]:
            # Upstream appends the turns to what is there.
            results.pop(str(sample), None)
            once(sample, copy.deepcopy(inferencer.lacking[sample]))
    for key in sorted(results, key=int):
        results[key] = results.pop(key)
