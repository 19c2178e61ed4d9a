import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hut_jax.metrics.e2e import java
from hut_jax.metrics.e2e.ptb import split, tokenize

# What PTBTokenizer of CoreNLP 3.4.1 makes of them, with -preserveLines and -lowerCase. The texts are one after the
# other in one file, so that each full stop at an end is followed by the next one's capital letter.
TOKENS = {
    "Blue Spice isn't cheap; it's £20-25, or £20.00.": "blue spice is n't cheap ; it 's # 20-25 , or # 20.00 .",
    "The Cricketers' pub can't serve kids' food, they'll say.": (
        "the cricketers ' pub ca n't serve kids ' food , they 'll say ."
    ),
    'It is family-friendly (5 out of 5) near "Café Adriatic".': (
        "it is family-friendly -lrb- 5 out of 5 -rrb- near `` café adriatic '' ."
    ),
    "Fast food... at the city centre.. Great!! Really?!": "fast food ... at the city centre . . great !! really ?!",
    "A 3-star pub - not 5-star - on St. John's Rd. The price is £20–£25.": (
        "a 3-star pub - not 5-star - on st. john 's rd. . the price is # 20 -- # 25 ."
    ),
    "Prices of 7.50/9.99, i.e. cheap, etc.": "prices of 7.50 / 9.99 , i.e. cheap , etc. .",
    "You cannot miss it & it's 'good', d'oeuvres and O'Brien's.": (
        "you can not miss it & it 's ` good ' , d'oeuvres and o'brien 's ."
    ),
    "1/2 price at 5 1/2 pounds, 24/7, No. 5 and no. x": "1/2 price at 5\xa01/2 pounds , 24/7 , no. 5 and no . x",
    "The cafe\u0301 isn&apos;t a x\u0301-y, it&apos;s a co\u2010op (ca\xadfe) at 5 o&apos;clock.": (
        "the cafe\u0301 is n't a x\u0301 - y , it 's a co\u2010op -lrb- cafe -rrb- at 5 o&apos;clock ."
    ),
    "[The Mill] serves ½ portions at 5p.m. and 5 p.m. It is open.": (
        "-lsb- the mill -rsb- serves 1/2 portions at 5p . m. and 5 p.m. . it is open ."
    ),
    # One text or more for each of the rules.
    "'Twas fun, I'm gonna go, lemme see, gimme that; 'tis gotta.": (
        "'t was fun , i 'm gon na go , lem me see , gim me that ; 't is got ta ."
    ),
    "Plan B. The end. In the U.S. The pub. At 5 p.m. we eat. Mr. J. Smith, a U.S. man.": (
        "plan b . the end . in the u.s. . the pub . at 5 p.m. we eat . mr. j. smith , a u.s. man ."
    ),
    "The Mass. pub, a mass. of food, Tex. Then tex. Then Wash. It is, wash. It is.": (
        "the mass. pub , a mass . of food , tex. . then tex . then wash. . it is , wash . it is ."
    ),
    "B&B and b&b, AT&T, at&t, R+D costs US$20 or us$20, $5.": (
        "b&b and b & b , at&t , at & t , r+d costs us$ 20 or us $ 20 , $ 5 ."
    ),
    "Rock 'n' roll, ol' man, dunkin' donuts, feed 'em, 'til '90s, ma'am, y'all, C'mon.": (
        "rock 'n' roll , ol' man , dunkin' donuts , feed 'em , 'til '90s , ma'am , y' all , c'mon ."
    ),
    "O'Brien o'brien D'Arcy Y'Alla L'Oréal l'orange.": ("o'brien o'brien d'arcy y' alla l'oréal l'orange ."),
    "See http://a.b/c/d and mail me.too@x-y.org @joe #food <b>big</b> on 12/25/2014.": (
        "see http://a.b/c/d and mail me.too@x-y.org @joe #food <b> big </b> on 12/25/2014 ."
    ),
    "A -5 and +5, 1/2, 3-1/2, 10:30, .5, 1,000.50, and/or red-white/blue and a/b/c.": (
        "a -5 and +5 , 1/2 , 3-1/2 , 10:30 , .5 , 1,000.50 , and/or red-white/blue and a/b/c ."
    ),
    "See Prof. Smith vs. Mr. Jones, fig. 5, Fig. x, pp. 5, art. 7, art. x.": (
        "see prof. smith vs. mr. jones , fig. 5 , fig . x , pp. 5 , art. 7 , art . x ."
    ),
    "He said \"hi\", ``so'' 'quoted' text..... ----- --- *** ?? __ @@ ##.": (
        "he said `` hi '' , `` so '' ` quoted ' text ... ----- -- *** ?? __ @@ ## ."
    ),
    "A word.com, word.; end.: a_b-c, x-y_z, e.g., x.": ("a word.com , word. ; end. : a_b-c , x-y_z , e.g. , x ."),
    "It is n't don't DON'T can’t ‘tis ’s she’ll he'd we've you're I'm.": (
        "it is n't do n't do n't ca n't ` tis 's she 'll he 'd we 've you 're i 'm ."
    ),
    "In Jan. The sun; in jan. we; St. The saint; Ave. The road; Inc. The firm; inc. it.": (
        "in jan. . the sun ; in jan. we ; st. the saint ; ave. the road ; inc. . the firm ; inc. it ."
    ),
    "«Le Café» “x” ‹y› £5 €6 ¢7 … ½ ¼ ¾ ⅓ ⅔ – — ― &mdash; &ndash; &lt;a&gt; &quot;q&quot; ----.": (
        "`` le café '' `` x '' ` y ' # 5 $ 6 cents 7 ... 1/2 1/4 3/4 1/3 2/3 -- -- -- -- -- < a > `` q '' -- ."
    ),
    "{a} [b] (c) x² y³ ₂ 5² a‑b.": ("-lcb- a -rcb- -lsb- b -rsb- -lrb- c -rrb- x ² y ³ ₂ 5 ² a‑b ."),
    "The price &amp; AT&amp;T R&amp;D, fish &amp; chips.": ("the price & at&t r&d , fish & chips ."),
    "It costs 20p.m. No. 5 No. x nos. 7 op. 3 (etc.) dept. The dept. it.": (
        "it costs 20p . m. no. 5 no . x nos. 7 op. 3 -lrb- etc. -rrb- dept. the dept. it ."
    ),
    "Sushi, from 5 a.m. You eat, I. You, a. The, x. At, Z. Some.": (
        "sushi , from 5 a.m. . you eat , i. you , a. the , x. at , z. some ."
    ),
}


def test_tokens_are_those_of_the_original():
    assert [" ".join(tokens) for tokens in split("\n".join(TOKENS))] == list(TOKENS.values())


@pytest.mark.peers
def test_the_original_says_so():
    try:
        lines = java.tokenize(list(TOKENS))
    except java.Unavailable as unavailable:
        pytest.skip(str(unavailable))
    assert lines == tokenize(list(TOKENS))
    assert all(line != text.lower() for line, text in zip(lines, TOKENS, strict=True))


@pytest.mark.peers
def test_random_lines_of_marks_hyphens_and_entities_are_split_as_the_original_does():
    words = [
        *(
            "cafe\u0301",
            "caf\u00ade",
            "nai\u0308ve",
            "\u0301",
            "\u00ad",
            "x\u0301-y",
            "a\u00adb",
            "Rouge",
            "near",
            "The",
            "5",
        ),
        *(
            "it",
            "&apos;",
            "&apos;s",
            "don&apos;t",
            "o&apos;clock",
            "can\u2019t",
            "co\u2010op",
            "co\u2011op",
            "£20",
            ".",
            ",",
            "-",
        ),
    ]
    draws = np.random.default_rng(0).choice(words, (400, 8))
    texts = [f"{' '.join(line)}." for line in draws]
    try:
        lines = java.tokenize(texts)
    except java.Unavailable as unavailable:
        pytest.skip(str(unavailable))
    assert lines == tokenize(texts)
    unsplit = [text.lower() for text in texts]
    assert sum(one != other for one, other in zip(lines, unsplit, strict=True)) > 200


def test_an_abbreviations_full_stop_depends_on_what_follows():
    assert split("food etc. and\nfood etc.\nthe\nfood etc.\nThe\nfood etc.")[::2] == [
        ["food", "etc.", "and"],
        ["the"],
        ["the"],
    ]
    assert split("food etc.\nthe") == [["food", "etc."], ["the"]]
    assert split("food etc.\nThe") == [["food", "etc.", "."], ["the"]]
    assert split("food etc.") == [["food", "etc.", "."]]


def test_punctuation_is_dropped_but_brackets_are_not():
    assert tokenize(['"Hi" (there): it\'s - good!', "!!"]) == ["hi -lrb- there -rrb- it 's good", "!!"]


def test_what_is_no_known_character_is_dropped():
    assert tokenize(["a \U0001f600 b\ufeff c\u200b"]) == ["a b c"]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.from_regex("[A-Z]?[b-z]{2,9}", fullmatch=True), max_size=5), min_size=1, max_size=3))
def test_plain_words_stay_and_every_text_has_its_line(texts):
    split_in_two = {"cannot", "gonna", "gotta", "lemme", "gimme", "wanna"}
    plain = [[word for word in words if word.lower() not in split_in_two] for words in texts]
    assert tokenize([" ".join(words) for words in plain]) == [" ".join(words).lower() for words in plain]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(alphabet="aB1.,-'\"/&£ ’_(@:#", max_size=12), min_size=1, max_size=3))
def test_any_texts_have_a_line_each(texts):
    assert len(tokenize(texts)) == len(texts)
