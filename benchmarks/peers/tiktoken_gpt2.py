"""tiktoken's GPT-2 without its download: the ranks are the ids of a tokenizer.json that holds the same merges."""

END_OF_TEXT = "<|endoftext|>"
SIZE = 50_257


def gpt2_of(tokenizer):
    """`tiktoken.Encoding` that gives the ids of `tokenizer`, or None where that is not GPT-2's vocabulary.

    tiktoken merges in the order of the ids, so that a vocabulary with other tokens in between, as NeoX's with
    its runs of spaces, cannot be carried over.
    """
    import tiktoken
    from tiktoken_ext.openai_public import r50k_pat_str

    ids = tokenizer.get_vocab()
    end_of_text = ids.pop(END_OF_TEXT, None)
    if len(ids) != SIZE - 1 or end_of_text != SIZE - 1 or tokenizer.normalizer is not None:
        return None
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    byte_of = {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
    ranks = {bytes(byte_of[symbol] for symbol in token): id_ for token, id_ in ids.items()}
    special = {END_OF_TEXT: end_of_text}
    return tiktoken.Encoding("gpt2", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens=special)
