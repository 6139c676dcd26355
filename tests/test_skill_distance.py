"""GAP-5: Eq. 9c's distance, on dev replies of the simulated shop."""
import pytest

import data
from csagent import SkillEmbedding, skill_distance
from lm.models import load_model
from shop import mgshop
from start.pairs import slot_names, vocabulary_texts, warm_pairs

pytestmark = pytest.mark.usefixtures("small_shop")


def test_a_held_out_reply_is_nearer_its_own_skill():
    shop = data.load("mgshop")
    model, tokenizer = load_model("tiny", vocabulary_texts(shop), slot_names(shop), 0)

    def encode(text):
        return tokenizer.encode(text, add_special_tokens=False)

    table = model.get_input_embeddings().weight
    known = [reply for _, reply in warm_pairs(shop.train)[:500]]
    space = SkillEmbedding(table, encode, known, shop.skills)
    dialogues = [mgshop.teacher_dialogue("dev", n) for n in range(60)]
    pairs = [(r.skills, reply) for r, reply in warm_pairs(dialogues) if len(r.skills) == 1]
    skills = list(shop.skills)
    references = space.sequences([[name] for name in skills])
    nearer = compared = 0
    for (own,), reply in pairs[:200]:
        d = skill_distance(space.replies([encode(reply)]).expand(len(skills), -1), references)
        nearer += int((d > d[skills.index(own)]).sum())
        compared += len(skills) - 1
    assert compared > 1000
    # phrase-book replies; free paraphrases reach about .78 (GAP-5)
    assert nearer / compared >= 0.8
