"""Questions that the demo can't answer, made from small lists; it says so to all of them."""

import random

PLACES = ("France", "Japan", "Brazil", "Kenya", "Norway", "Peru", "Italy", "Canada", "Egypt",
          "India", "Spain", "Chile", "Poland", "Turkey", "Greece", "China", "Cuba")  # fmt: skip
CITIES = ("Paris", "Tokyo", "London", "Berlin", "Rome", "Madrid", "Cairo", "Oslo", "Lima", "Delhi",
          "Boston", "Vienna", "Prague", "Dublin", "Sydney")  # fmt: skip
THINGS = ("a cat", "a dog", "love", "the moon", "the sea", "a volcano", "the sun", "a bicycle",
          "gravity", "a black hole", "the weather", "democracy", "music", "a star", "an atom",
          "a train", "the brain", "a rainbow", "photosynthesis", "inflation", "a tree", "coffee",
          "an airplane", "the universe", "a novel", "a triangle", "evolution")  # fmt: skip
PEOPLE = ("Einstein", "Shakespeare", "Mozart", "Napoleon", "Cleopatra", "Newton", "Picasso",
          "Gandhi", "Darwin", "Beethoven", "Columbus", "Plato", "the president", "the king",
          "Marie Curie", "Leonardo da Vinci")  # fmt: skip
DISHES = ("bread", "pizza", "a cake", "soup", "pasta", "pancakes", "rice", "a salad", "cookies",
          "tea", "an omelette", "curry", "sushi")  # fmt: skip
CHORES = ("fix my car", "learn to swim", "grow tomatoes", "buy a house", "lose weight",
          "paint a wall", "learn the piano", "write a novel", "get a job", "train a dog",
          "sleep better", "play chess", "plan a trip", "repair a bicycle", "learn French",
          "tie a tie", "build a table", "save money", "cure a cold", "win at poker")  # fmt: skip
LANGUAGES = ("Python", "Java", "Rust", "C", "Go", "JavaScript", "Haskell", "SQL")
TONGUES = ("French", "German", "Spanish", "Japanese", "Latin", "Chinese", "Italian")
TEAMS = ("the world cup", "the Olympics", "the election", "the Oscars", "the race", "the war")

SHAPES = (
    "What is the capital of {place}?", "capital of {place}", "Where is {city}?",
    "How far is it from {city} to {city2}?", "What is the weather in {city}?",
    "Who was {person}?", "Who is {person}?", "When was {person} born?", "Tell me about {person}.",
    "Tell me about {place}.", "What is {thing}?", "How does {thing} work?", "Explain {thing}.",
    "Write a poem about {thing}.", "Write a story about {thing}.", "Write a song about {thing}.",
    "How do I make {dish}?", "What is a good recipe for {dish}?", "How do I cook {dish}?",
    "How do I {chore}?", "How can I {chore}?", "I want to {chore}.", "Help me {chore}.",
    "What is {a} plus {b}?", "What is {a} times {b}?", "{a} + {b}", "{a} * {b} = ?",
    "Calculate {a} minus {b}.", "Write a program in {language}.", "Teach me {language}.",
    "How do I sort a list in {language}?", "Translate good morning into {tongue}.",
    "How do you say hello in {tongue}?", "Who won {team}?", "Who won {team} in {year}?",
    "What happened in {year}?", "What time is it?", "What day is it today?", "Tell me a joke.",
    "Do you like {thing}?", "Is {thing} real?", "Why is the sky blue?", "How old is {thing}?",
    "What is the meaning of life?", "How tall is {person}?", "What is the news today?",
    "Which is better, {dish} or {dish2}?", "Recommend a film.", "Recommend a book about {thing}.",
    "What is the population of {place}?", "Who rules {place}?", "Play some music.",
    "How many people live in {city}?", "Tell me a fact about {thing}.", "What should I eat today?",
    "Why do people like {thing}?", "What colour is {thing}?", "Sing a song.", "Order a pizza.",
    "Is {city} in {place}?", "What language do they speak in {place}?", "Draw {thing}.",
)  # fmt: skip


def question(rng: random.Random) -> str:
    """One question about the rest of the world."""
    return rng.choice(SHAPES).format(
        place=rng.choice(PLACES),
        city=rng.choice(CITIES),
        city2=rng.choice(CITIES),
        thing=rng.choice(THINGS),
        person=rng.choice(PEOPLE),
        dish=rng.choice(DISHES),
        dish2=rng.choice(DISHES),
        chore=rng.choice(CHORES),
        language=rng.choice(LANGUAGES),
        tongue=rng.choice(TONGUES),
        team=rng.choice(TEAMS),
        year=rng.randrange(1500, 2026),
        a=rng.randrange(1, 100),
        b=rng.randrange(1, 100),
    )
