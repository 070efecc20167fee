"""Our own rubric, for those without a checkout of the benchmark.

Its scores answer the same questions on the same scales but are not comparable with published ones,
and the names of its metrics say so.
"""

_GEDIT_FORM = """
Answer with one JSON object and nothing else:
{"score": [first, second], "reasoning": "one or two short sentences"}
Both scores are whole numbers from 0 to 10."""

GEDIT = {
    "sc": """You review the work of a picture editor. The first picture is the original, the second
is what the editor returned. Both come from software; rate them as pictures only.

The editor was told: <instruction>

First score: how well does the second picture fulfil that request?
0 means that nothing that was asked for happened, or something else did. 5 means that a good part
of it was done. 10 means that all of it was done exactly as asked.
Second score: how well is everything that the request does not concern kept?
0 means that the original is no longer recognisable. 5 means that several other things changed.
10 means that nothing changed beyond what the request needs.
If both pictures are the same, the request was not fulfilled.
"""
    + _GEDIT_FORM,
    "pq": """You review the technical quality of one picture that software made. Where it came from
and what it was meant to show do not matter.

First score: how natural does it look as a whole?
0 means impossible light, shadow, perspective or proportion everywhere. 10 means that nothing looks
out of place for a picture of its kind.
Second score: how free is it of visible damage?
0 means that it is full of blur, seams, noise, deformed faces or limbs, or broken letters. 10 means
that there is none of this.
"""
    + _GEDIT_FORM,
}

IMGEDIT = {
    "*": """You review the work of a picture editor. The first picture is the original, the second
is what the editor returned.

The editor was told: <edit_prompt>

Rate three things, each with a whole number from 1 to 5.
Compliance - 1: the request was ignored or done to the wrong thing; 3: its main point was done, with
clear mistakes; 5: it was done completely and exactly.
Seamlessness - 1: the picture is broken; 3: traces of the edit are easy to see; 5: nothing shows
that the picture was edited.
Preservation - 1: what should have stayed is destroyed, or the scene is physically impossible; 3:
some things changed without need; 5: all else is untouched, and light, shadow and contact are right.
If both pictures are the same, compliance is 1.

Answer with these four lines and nothing else:
Brief reasoning: one short sentence
Compliance: A number from 1 to 5.
Seamlessness: A number from 1 to 5.
Preservation: A number from 1 to 5.
"""
}
